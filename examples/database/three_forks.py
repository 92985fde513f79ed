"""A sandbox and its database fork together, three ideas are tried, and the best one is kept.

It needs a node (`sandflare up`) and the package (`pip install ./sdk/python`):

    python3 examples/database/three_forks.py
"""

from concurrent.futures import ThreadPoolExecutor

from sandflare import Database, Sandbox

SEED = """
CREATE TABLE plan (step int PRIMARY KEY, cost int);
INSERT INTO plan SELECT n, n * 10 FROM generate_series(1, 5) n;
"""

# Runs in each fork, on that fork's own database, by the address that the sandbox had all along.
IDEAS = {
    "halve all": "UPDATE plan SET cost = cost / 2",
    "drop the dearest": "DELETE FROM plan WHERE cost = (SELECT max(cost) FROM plan)",
    "merge the cheap": "DELETE FROM plan WHERE step IN (1, 2, 3)",
}
TRY = """\
import os, sys
import psycopg

with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute(sys.argv[1])
    print(connection.execute("SELECT sum(cost) FROM plan").fetchone()[0])
"""

database = Database.create("plan", seed=SEED)
sandbox = Sandbox.create("planner")
try:
    sandbox.wire(database)
    sandbox.upload(TRY, "/home/agent/try.py")
    forks = sandbox.fork(len(IDEAS), databases="fork")

    def cost(fork: Sandbox, idea: str) -> int:
        """What the plan costs after an idea."""
        return int(fork.run(["python3", "try.py", IDEAS[idea]], check=True).stdout)

    with ThreadPoolExecutor(len(forks)) as threads:
        costs = list(threads.map(cost, forks, IDEAS))

    results = sorted(zip(costs, IDEAS, forks), key=lambda result: result[0])
    for total, idea, _ in results:
        print(f"{idea}: {total}")

    (_, idea, winner), *losers = results
    for _, _, loser in losers:
        own = loser.wired()[0]
        loser.kill()
        Database.get(own.id).delete()

    kept = Database.get(winner.wired()[0].id)
    print(f"kept: {idea}, {len(kept.query('SELECT * FROM plan'))} steps")
    before = database.query("SELECT sum(cost) AS cost FROM plan")[0]["cost"]
    print(f"the plan they came from still costs {before}")
    winner.kill()
    kept.delete()
finally:
    sandbox.kill()
    database.delete()
