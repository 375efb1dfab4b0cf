-- +goose Up

-- What a history has to account for stands between millions of other entries. Queries repeat the condition, or SQLite doesn't use the index.
CREATE INDEX leaves_rare ON leaves (kind, log_index) WHERE kind IN ('deferred@v1', 'key@v1', 'opened@v1', 'restart@v1');

-- +goose Down
DROP INDEX leaves_rare;
