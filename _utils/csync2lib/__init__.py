"""
All that csyncsync does, apart from what Salt's loader has to find: its loader files are thin, and call this package.

Rooms, from the bottom up: ``errors``, ``storage``; ``csync2`` and ``config``; ``journal``, ``pauses``; ``report``;
``push``, ``watch``; ``join``; ``master``. None calls a room above it. Paths of synchronized files are ``bytes``,
because a file name need not be UTF-8.
"""

#: Of the whole of csyncsync; setup.cfg says the same.
VERSION = "0.1.0"
