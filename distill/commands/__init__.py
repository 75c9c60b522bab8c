"""The commands of `hb-distill`: each parses its options, calls one function and prints."""
