# The minion's copy of _modules, _states, _beacons and _utils. It is brought up to date while this file is rendered, so
# that the states after it are there in the same run, and with test=True too. From the environments of the top file, as Salt
# does by itself, and from the one of this file: what is in none of these is deleted.
{%- set top = salt['state.show_top'](concurrent=True) %}
{%- set environments = ((top | list if top is mapping else []) or ['base']) + [saltenv] %}
{%- set synced = salt['saltutil.sync_all'](saltenv=environments | unique | list, refresh=True) %}
{%- if synced.values() | select | list %}
csyncsync's modules are loaded anew:
  test.succeed_with_changes:
    - order: first
    - reload_modules: True
{%- endif %}
