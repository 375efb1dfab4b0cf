-- +goose Up

-- How many notices weren't read stands on every page.
CREATE INDEX notices_unread ON notices (account, read_at) WHERE read_at IS NULL;

-- +goose Down
DROP INDEX notices_unread;
