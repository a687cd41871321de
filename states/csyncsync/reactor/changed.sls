# A host has something to push. Fields of events are written by minions: they pass through tojson, never as YAML.
A host asks to push:
  runner.csyncsync.sync:
    - args:
      - group: {{ data.get('group') | tojson }}
      - host: {{ data.get('id') | tojson }}
