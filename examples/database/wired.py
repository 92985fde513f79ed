"""A database that a sandbox uses, by the address in its environment.

It needs a node (`sandflare up`) and the package (`pip install ./sdk/python`):

    python3 examples/database/wired.py
"""

from sandflare import Sandbox, Database
db = Database.create("memory", password="Secret#42")
sb = Sandbox.create("agent")
sb.wire(db.name)
sb.run("""python3 -c "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL']).execute('create table t(x int)')" """, check=True)

sb.kill()
db.delete()
