# The beacon finds the groups by itself; these are its only settings.
{%- set watches = pillar.get('csyncsync', {}).get('max_user_watches') %}
{%- if watches %}

# One for each directory of all groups; what other programs watch comes on top.
So many directories can be watched:
  sysctl.present:
    - name: fs.inotify.max_user_watches
    - value: {{ watches | int }}
    - require_in:
      - beacon: Changes are watched for
{%- endif %}
{%- set metrics = pillar.get('csyncsync', {}).get('metrics') %}
{%- if metrics is string and metrics.startswith('/') %}

# The node exporter's own, if it is there.
The directory of csyncsync:metrics is there:
  file.directory:
    - name: {{ metrics | tojson }}
    - makedirs: True
    - require_in:
      - beacon: Changes are watched for
{%- endif %}

Changes are watched for:
  beacon.present:
    - name: csyncsync
    - save: True
    - settle: 0.1
{%- if metrics %}
    - metrics: {{ metrics | tojson }}
{%- endif %}
