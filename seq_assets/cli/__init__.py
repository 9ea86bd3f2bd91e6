"""The command line: `seqline`."""
