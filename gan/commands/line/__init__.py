"""The command line, a file for each command: arguments, options and help; what is done with them is imported last."""
