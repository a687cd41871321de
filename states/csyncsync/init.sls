# Everything: salt '*' state.apply csyncsync
include:
  - csyncsync.modules
  - csyncsync.package
  - csyncsync.certificate
  - csyncsync.mine
  - csyncsync.service
  - csyncsync.groups
  - csyncsync.watch
