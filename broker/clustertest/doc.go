// Package clustertest holds the tests of what several brokers survive: real processes are killed, stopped, cut off and rolled back under load. It has nothing but tests.
//
// What they show. After each fault every disclosure that reached the provider has exactly one entry; every answer that was released has a receipt that verifies and whose entry is published;
// the log is one history, in which every checkpoint that anybody saw has its place; agencies were told nothing but to come again; and they are served again.
//
// What they don't. The machine itself never fails: that a commit is on the disk when PostgreSQL says so is PostgreSQL's word.
package clustertest
