"""Three sandboxes take their work from one table, and no piece of it is done twice.

It needs a node (`sandflare up`) and the package (`pip install ./sdk/python`):

    python3 examples/database/shared_queue.py
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from sandflare import Database, Sandbox

TASKS = 30
SEED = f"""
CREATE TABLE tasks (id int PRIMARY KEY, number int, answer int, worker text);
INSERT INTO tasks (id, number) SELECT n, n FROM generate_series(1, {TASKS}) n;
"""

# Runs in each sandbox. A task that another one has locked is passed over; one whose worker dies is
# free again, because its transaction ends without a commit.
WORKER = """\
import os, sys, time
import psycopg

with psycopg.connect(os.environ["DATABASE_URL"], prepare_threshold=None) as connection:
    while True:
        with connection.transaction():
            task = connection.execute(
                "SELECT id, number FROM tasks WHERE worker IS NULL"
                " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
            ).fetchone()
            if task is None:
                break
            id, number = task
            time.sleep(0.1)  # the work
            connection.execute(
                "UPDATE tasks SET answer = %s, worker = %s WHERE id = %s",
                (number * number, sys.argv[1], id),
            )
"""

with ExitStack() as stack:
    database = stack.enter_context(Database.create("tasks", seed=SEED))
    workers = {}
    for name in ("ada", "bob", "cyd"):
        workers[name] = stack.enter_context(Sandbox.create(name))
        workers[name].wire(database)
        workers[name].upload(WORKER, "/home/agent/worker.py")

    def work(name: str) -> None:
        """Let one of them work until nothing is left."""
        workers[name].run(["python3", "worker.py", name], check=True)

    with ThreadPoolExecutor(len(workers)) as threads:
        list(threads.map(work, workers))

    for row in database.query(
        "SELECT worker, count(*) AS done, sum(answer) AS total FROM tasks GROUP BY 1 ORDER BY 1"
    ):
        print(f"{row['worker']} did {row['done']}, {row['total']} in total")
    (left,) = database.query("SELECT count(*) AS n FROM tasks WHERE answer IS NULL")
    print(f"{left['n']} of {TASKS} are left")
