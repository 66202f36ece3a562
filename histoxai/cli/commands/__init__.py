"""The commands, one verb a file: each hands settings to its stage and shows the summary.

Stages are imported inside the functions, so that `--help` and `--version` load none of torch, zarr and numpy.
"""
