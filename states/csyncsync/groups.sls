# The groups of the pillar on this host. The runner applies this when facts of a group's host changed.
include:
  - csyncsync.mine

{#- csyncsync:errors is what the key provider says of groups that cannot be used: they fail, and what stands stays. #}
{%- set found = pillar.get('csyncsync') or {} %}
{%- set csyncsync = found if found is mapping else {'groups': found} %}
{%- set groups = csyncsync.get('groups') %}
{%- set broken = csyncsync.get('errors') or {} %}
{%- if '' in broken or (groups is not none and groups is not mapping) %}

The groups of the pillar can be read:
  test.fail_without_changes:
    - name: {{ broken.get('', ['csyncsync:groups is no mapping of group names to options']) | join(' ') | tojson }}

{%- else %}
{%- set groups = groups or {} %}
{%- for group in (groups.keys() | list + broken.keys() | list) | unique %}

{{ ("The group " ~ group ~ " is on this host") | tojson }}:
  csyncsync.group_present:
    - name: {{ group | string | tojson }}
    - require:
      - csyncsync: The other hosts know this host
{%- endfor %}
{%- set installed = salt['csyncsync.installed']() if 'csyncsync.installed' in salt else [] %}
{%- if installed and 'groups' not in csyncsync %}
{#- The master has lost its copy of the key provider, or its config: nobody has taken the groups out of the pillar. #}

The pillar has the groups of this host:
  test.fail_without_changes:
    - name: {{ ('The pillar has no csyncsync:groups; this host has ' ~ installed | join(', ') ~ ', and keeps that as it is. On the master:'
        ' salt-run saltutil.sync_all && systemctl restart salt-master. For a host that is to leave: salt ' ~ grains['id']
        ~ ' state.apply csyncsync.absent') | tojson }}
{%- endif %}
{%- if 'groups' in csyncsync %}
{%- for group in installed if group not in groups and group not in broken %}

The group {{ group }} is no longer on this host:
  csyncsync.group_absent:
    - name: {{ group | tojson }}
{%- endfor %}
{%- endif %}
{%- endif %}
