# The minion's copy of _modules, _states, _beacons and _utils. It is brought up to date while this file is rendered, so
# that the states after it are there in the same run, and with test=True too.
{%- set synced = salt['saltutil.sync_all'](refresh=True) %}
{%- if synced.values() | select | list %}
csyncsync's modules are loaded anew:
  test.succeed_with_changes:
    - order: first
    - reload_modules: True
{%- endif %}
