"""The private parts of other libraries that the package uses, one file for each library."""
