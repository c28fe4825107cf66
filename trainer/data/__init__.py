"""Raw data sets to prepared data: one reader a source, one set of checks for all of them."""
