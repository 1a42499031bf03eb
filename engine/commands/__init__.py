"""Subcommands of `engine`, a file each: add_arguments(parser), main(arguments) -> exit status."""
