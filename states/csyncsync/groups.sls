# The groups of the pillar on this host. The runner applies this when facts of a group's host changed.
include:
  - csyncsync.mine

{%- set groups = (pillar.get('csyncsync') or {}).get('groups') %}
{%- if groups is mapping %}
{%- for group in groups %}

{{ ("The group " ~ group ~ " is on this host") | tojson }}:
  csyncsync.group_present:
    - name: {{ group | string | tojson }}
    - require:
      - csyncsync: The other hosts know this host
{%- endfor %}
{%- for group in (salt['csyncsync.installed']() if 'csyncsync.installed' in salt else []) if group not in groups %}

The group {{ group }} is no longer on this host:
  csyncsync.group_absent:
    - name: {{ group | tojson }}
{%- endfor %}
{%- elif groups is not none %}

csyncsync:groups of the pillar is a mapping of group names to options:
  test.fail_without_changes:
    - name: "csyncsync:groups is no mapping of group names to options: see pillar.example"
{%- endif %}
