A host that was away publishes and reads the facts:
  runner.csyncsync.apply:
    - args:
      - host: {{ data.get('id') | tojson }}
