-- As postgres.sql, for the server of the last signed checkpoint.
CREATE ROLE regard_owner LOGIN CREATEROLE;
CREATE DATABASE signed OWNER regard_owner;
