-- Ask whether migrations are recorded at all; creating the table anyway would need more rights.
SELECT to_regclass('_sqlx_migrations') IS NOT NULL
