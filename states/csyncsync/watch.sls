# The watcher finds the groups by itself (service.sls runs it); these are its only settings.
{%- set found = pillar.get('csyncsync') %}
{%- set csyncsync = found if found is mapping else {} %}
{%- for option in csyncsync if option not in ('groups', 'errors', 'confine', 'max_user_watches', 'metrics') %}

{{ ("The option " ~ option ~ " beside the groups is one") | tojson }}:
  test.fail_without_changes:
    - name: {{ ('csyncsync:' ~ option ~ ' is no option; there are: groups, confine, max_user_watches, metrics') | tojson }}
{%- endfor %}

{%- set watches = csyncsync.get('max_user_watches') %}
{%- if watches is not none %}

# One for each directory of all groups; what other programs watch comes on top.
So many directories can be watched:
{%- if (watches is integer or watches is string) and watches | int > 0 %}
  sysctl.present:
    - name: fs.inotify.max_user_watches
    - value: {{ watches | int }}
    - require_in:
      - beacon: Changes are watched for
{%- else %}
  test.fail_without_changes:
    - name: {{ ('csyncsync:max_user_watches ' ~ watches | tojson ~ ' is no number above 0') | tojson }}
{%- endif %}
{%- endif %}

Changes are watched for:
  beacon.present:
    - name: csyncsync
    - save: True
    - settle: 0.1

# The watcher writes them to where the link points.
{%- set link = '/var/lib/csyncsync/metrics.prom' %}
{%- set before = salt['file.readlink'](link) if salt['file.is_link'](link) else none %}
{%- set metrics = csyncsync.get('metrics') %}
{%- set file = metrics ~ '/csyncsync.prom' if metrics else none %}
{%- if metrics and (metrics is not string or not metrics.startswith('/')) %}

The metrics are written into csyncsync:metrics:
  test.fail_without_changes:
    - name: {{ ('csyncsync:metrics ' ~ metrics | tojson ~ ' is not an absolute path') | tojson }}

{%- else %}
{%- if metrics %}

The directory of csyncsync:metrics is there:
  file.directory:
    - name: {{ metrics | tojson }}
    - makedirs: True

The metrics are written into csyncsync:metrics:
  file.symlink:
    - name: {{ link }}
    - target: {{ file | tojson }}
    - makedirs: True
{%- endif %}
{%- if before and before != file %}

The metrics are no longer written where they were:
  file.absent:
    - names: {{ ([before] if metrics else [link, before]) | tojson }}
{%- endif %}
{%- endif %}
