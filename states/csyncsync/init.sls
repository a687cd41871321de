# Everything: salt '*' state.apply csyncsync
include:
  - csyncsync.modules
  - csyncsync.package
  - csyncsync.certificate
  - csyncsync.mine
  - csyncsync.groups
  - csyncsync.service
  - csyncsync.watch
