# The beacon finds the groups by itself; these are its only settings.
Changes are watched for:
  beacon.present:
    - name: csyncsync
    - save: True
    - settle: 0.1
