A host has pushed:
  runner.csyncsync.pushed:
    - args:
      - group: {{ (data.get('data') or {}).get('group') | tojson }}
      - host: {{ data.get('id') | tojson }}
      - jid: {{ (data.get('data') or {}).get('jid') | tojson }}
      - state: {{ (data.get('data') or {}).get('state') | tojson }}
      - refused: {{ (data.get('data') or {}).get('refused') | tojson }}
