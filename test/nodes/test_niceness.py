"""A node's niceness is that of all its threads, and is never lowered."""

import subprocess
import sys

CODE = '''
import os, threading
from cosmos3_ros.nodes.niceness import give_way
stop = threading.Event()
for _ in range(3):
    threading.Thread(target=stop.wait).start()
for nice in (0, 7, 3):
    give_way(nice)
    print(*sorted({os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir('/proc/self/task')}))
stop.set()
'''


def test_all_threads_give_way() -> None:
    own = int(subprocess.run(['nice'], check=True, capture_output=True, text=True).stdout)
    said = subprocess.run(
        [sys.executable, '-c', CODE], check=True, capture_output=True, text=True,
        start_new_session=True).stdout.split()
    assert said == [str(own), str(max(own, 7)), str(max(own, 7))]
