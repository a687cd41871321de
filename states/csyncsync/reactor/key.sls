{%- if data.get('act') == 'delete' %}
The others learn that a host is gone:
  runner.csyncsync.apply: []
{%- endif %}
