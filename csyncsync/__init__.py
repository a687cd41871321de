"""
The package that ``pip install`` makes: Salt's loader finds the modules beside this file.

In the repository they stand where Salt's file server looks for them (``_modules``, ``_states`` …); setup.cfg maps them.
"""
