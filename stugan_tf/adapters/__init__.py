"""What the package uses of other libraries that these do not offer publicly, a file for each."""
