import pprint, time
def test_x(cold_minion, call, outsider):
    for m in ("web1",):
        t=time.time()
        print(call(m, "sys.list_functions", "csyncsync"))
        print(time.time()-t); t=time.time()
        pprint.pprint(call(m, "state.apply", "csyncsync", test=True))
        print(time.time()-t); t=time.time()
        print(call(m, "sys.list_functions", "csyncsync"))
        print(time.time()-t); t=time.time()
        print(call(m, "beacons.list_available"))
        print(time.time()-t); t=time.time()
        pprint.pprint(call(m, "pillar.items"))
        pprint.pprint(call("db1", "pillar.items"))
        pprint.pprint(call(m, "csyncsync.groups"))
        print(time.time()-t); t=time.time()
