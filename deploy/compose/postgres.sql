-- Run once, in a new server: whose databases they are. The tables, and the roles of brokers, come from regard cluster init.
CREATE ROLE regard_owner LOGIN CREATEROLE;
CREATE ROLE trillian LOGIN;
CREATE DATABASE regard OWNER regard_owner;
CREATE DATABASE trillian OWNER trillian;
