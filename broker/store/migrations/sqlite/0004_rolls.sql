-- +goose Up

-- The filings of large closed epochs, moved here from filings in the order of their labels: a page full of them a row, which takes two thirds of the space.
CREATE TABLE rolls (
  id      INTEGER PRIMARY KEY,
  epoch   INTEGER NOT NULL,
  label   BLOB    NOT NULL,              -- the first one in it
  entries INTEGER NOT NULL,              -- how many
  packed  BLOB    NOT NULL               -- for each label: itself, then the number of its log indexes and the indexes, each as the difference from the one before, as varints
);
CREATE UNIQUE INDEX rolls_label ON rolls (epoch, label);
CREATE INDEX epochs_large ON epochs (number) WHERE items >= 4096;

-- +goose Down
SELECT 'filings are not unpacked again';
