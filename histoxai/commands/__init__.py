"""The commands, by what they do; `cli` gives them their names. Each turns flags into settings and calls its stage."""
