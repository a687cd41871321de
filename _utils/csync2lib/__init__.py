"""
All that csyncsync does, apart from what Salt's loader has to find: its loader files are thin, and call this package.

From the bottom up: ``errors``, ``storage``; ``csync2`` and ``config``; ``group``, ``journal`` and others; ``report``;
``push``, ``watch``; ``join``; beside them ``master``. None imports what is above it (tests/unit/test_house.py has the
table). Paths of synchronized files are ``bytes``, because a file name need not be UTF-8.
"""

#: Of the whole of csyncsync; setup.cfg says the same.
VERSION = "0.1.0"
