csync2 is installed:
  pkg.installed:
    - name: csync2
