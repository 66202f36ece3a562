"""What a case may take, whatever its input."""

SECONDS = 30.0
MEGABYTES = 600.0
# address space beyond what the process has at the start: what is asked for and never used counts too
ADDRESSES = 4 << 30
