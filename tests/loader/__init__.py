"""A package, so that its daemons end before the tests of other folders begin."""
