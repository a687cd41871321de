The hosts of a group read each other's facts:
  runner.csyncsync.apply:
    - args:
      - group: {{ (data.get('data') or {}).get('group') | tojson }}
      - reporter: {{ data.get('id') | string | tojson }}
