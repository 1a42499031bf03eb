"""Files that appear whole, and files that processes leave for one another."""
