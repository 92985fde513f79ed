-- What programs expect of a server, each with an answer that does not depend on when and where it is asked. The answers
-- of an ordinary one are in smoke.out; psql writes what it is told with them.
\set VERBOSITY terse
\pset null '(null)'
-- Types
SELECT 7::int2 + 1::int8 AS sum, 0.1::numeric + 0.2 AS exact, 'NaN'::float8 AS nan, true AND NULL AS unknown;
SELECT 'é'::text || chr(128512) AS text, length('日本語') AS letters, octet_length('日本語') AS bytes, '\xdeadbeef'::bytea AS bytea;
SELECT timestamptz '2026-03-29 01:30:00+01' AT TIME ZONE 'Europe/Berlin' AS summer, interval '1 month' + date '2024-01-31' AS month;
SELECT ARRAY[1, 2, 3] || 4 AS longer, int4range(1, 5) * int4range(3, 9) AS both, '192.0.2.7/24'::inet << '192.0.0.0/16' AS within;
SELECT jsonb '{"a": [1, {"b": null}]}' #> '{a,1}' AS found, jsonb_path_query_array('[1, 5, 9]', '$[*] ? (@ > 4)') AS larger;
-- Tables, constraints, defaults
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE person (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, age int CHECK (age >= 0), feels mood DEFAULT 'ok',
    initial text GENERATED ALWAYS AS (left(name, 1)) STORED
);
CREATE TABLE pet (owner int REFERENCES person ON DELETE CASCADE, name text, PRIMARY KEY (owner, name));
INSERT INTO person (name, age, feels) VALUES ('Ada', 36, 'happy'), ('Bob', NULL, DEFAULT), ('Cleo', 7, 'sad') RETURNING id, name, initial, feels;
INSERT INTO pet SELECT id, 'Rex ' || id FROM person WHERE id <> 2;
INSERT INTO person (name, age) VALUES ('Dan', -1);
INSERT INTO person (name) VALUES ('Ada');
INSERT INTO pet VALUES (99, 'nobody''s');
INSERT INTO person (name, age) VALUES ('Ada', 37) ON CONFLICT (name) DO UPDATE SET age = excluded.age RETURNING name, age;
-- Joins, groups, windows, recursion
SELECT person.name, count(pet) AS pets, max(pet.name) AS last FROM person LEFT JOIN pet ON owner = id GROUP BY id ORDER BY id;
SELECT name, rank() OVER (ORDER BY feels DESC), sum(age) OVER (ORDER BY id) AS so_far FROM person ORDER BY id;
WITH RECURSIVE fib(a, b) AS (SELECT 0, 1 UNION ALL SELECT b, a + b FROM fib WHERE b < 100) SELECT string_agg(a::text, ' ') FROM fib;
SELECT feels, grouping(feels) AS all_of_them, count(*) FROM person GROUP BY ROLLUP (feels) ORDER BY 2, 1;
MERGE INTO person USING (VALUES ('Bob', 50), ('Eve', 9)) AS news(who, years) ON name = who
    WHEN MATCHED THEN UPDATE SET age = years WHEN NOT MATCHED THEN INSERT (name, age) VALUES (who, years);
SELECT name, age FROM person ORDER BY name;
-- Transactions
BEGIN;
DELETE FROM person WHERE name = 'Ada';
SAVEPOINT before;
DELETE FROM pet;
ROLLBACK TO before;
SELECT count(*) FROM pet;
SELECT 1 / 0;
SELECT 'not run';
ROLLBACK;
SELECT count(*) FROM pet;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
UPDATE person SET age = 1;
COMMIT;
-- Indexes, and what uses them
CREATE TABLE number AS SELECT n, md5(n::text) AS text, to_tsvector('english', 'running number ' || n) AS words FROM generate_series(1, 5000) n;
CREATE INDEX ON number (n);
CREATE INDEX ON number USING gin (words);
ANALYZE number;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT text FROM number WHERE n = 4242;
SELECT text FROM number WHERE n = 4242;
SELECT count(*) FROM number WHERE words @@ to_tsquery('english', 'run & 777');
RESET enable_seqscan;
-- Vectors
CREATE TABLE item (id int, at vector(3));
INSERT INTO item SELECT n, ARRAY[n, n % 7, n % 3]::vector FROM generate_series(1, 500) n;
CREATE INDEX ON item USING hnsw (at vector_l2_ops);
SELECT * FROM (SELECT id, at <-> '[100,2,1]' AS away FROM item ORDER BY at <-> '[100,2,1]' LIMIT 3) ORDER BY away, id;
-- Functions, triggers, views, partitions
CREATE FUNCTION older() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.age := NEW.age + 1; RAISE NOTICE '% is older', NEW.name; RETURN NEW; END $$;
CREATE TRIGGER older BEFORE UPDATE ON person FOR EACH ROW WHEN (OLD.age > 40) EXECUTE FUNCTION older();
UPDATE person SET feels = 'sad' WHERE age > 8 RETURNING name, age;
CREATE MATERIALIZED VIEW sad AS SELECT name FROM person WHERE feels = 'sad';
SELECT * FROM sad ORDER BY 1;
CREATE TABLE event (day date, what text) PARTITION BY RANGE (day);
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO event VALUES ('2026-05-05', 'in'), ('2025-05-05', 'out');
INSERT INTO event VALUES ('2026-05-05', 'in');
SELECT tableoid::regclass, what FROM event;
-- Cursors, prepared statements, copies, large objects, locks
BEGIN;
DECLARE walk SCROLL CURSOR FOR SELECT n FROM number ORDER BY n;
MOVE 999 IN walk;
FETCH 2 FROM walk;
FETCH BACKWARD 1 FROM walk;
COMMIT;
PREPARE by_number(int) AS SELECT left(text, 4) AS text FROM number WHERE n = $1;
EXECUTE by_number(1);
EXECUTE by_number(5000);
COPY person (name, age, feels) FROM stdin;
Fay	11	happy
Gus	\N	sad
\.
COPY (SELECT name, age, feels FROM person ORDER BY name) TO stdout (FORMAT csv, HEADER, NULL 'none');
COPY person (name, age) FROM stdin;
Hal	many
\.
BEGIN;
SELECT lo_from_bytea(424242, 'large') AS object;
SELECT convert_from(lo_get(424242), 'UTF8') AS object;
SELECT lo_unlink(424242);
COMMIT;
SELECT pg_try_advisory_lock(7), pg_advisory_unlock(7);
-- What is not an owner's
SELECT rolname FROM pg_authid;
COPY person TO PROGRAM 'cat';
ALTER SYSTEM SET work_mem = '1GB';
-- Nothing of it stays
DROP TABLE person, pet, number, item, event CASCADE;
DROP FUNCTION older;
DROP TYPE mood;
SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm', 'p');
