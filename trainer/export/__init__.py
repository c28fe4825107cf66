"""A bundle in the forms that other libraries read."""
