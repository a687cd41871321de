{%- if 'csyncsync.member' not in salt %}
include:
  - csyncsync.modules
{%- endif %}

This host has a certificate for csync2:
  csyncsync.certificate_present: []
