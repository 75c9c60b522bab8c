-- The jobs, and a log of their changes that is kept short. A statement a paragraph.
CREATE TABLE IF NOT EXISTS videos (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL DEFAULT 'queued',
  rank REAL NOT NULL,
  model TEXT NOT NULL,
  prompt TEXT NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  num_frames INTEGER NOT NULL,
  fps INTEGER NOT NULL,
  num_inference_steps INTEGER NOT NULL,
  guidance_scale REAL NOT NULL,
  seed INTEGER NOT NULL,
  device TEXT NOT NULL,
  remixed_from TEXT,
  command TEXT NOT NULL,
  created_at REAL NOT NULL,
  completed_at REAL,
  owner TEXT,
  deaths INTEGER NOT NULL DEFAULT 0,
  stage TEXT,
  step INTEGER,
  steps INTEGER,
  progress INTEGER NOT NULL DEFAULT 0,
  preview_step INTEGER,
  backends TEXT NOT NULL DEFAULT '{}',
  promise TEXT,
  timings TEXT,
  notes TEXT NOT NULL DEFAULT '[]',
  error_code TEXT,
  error_message TEXT,
  pinned INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX IF NOT EXISTS by_status ON videos (status, rank);

CREATE TABLE IF NOT EXISTS changes (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, deleted INTEGER NOT NULL
);

CREATE TRIGGER IF NOT EXISTS inserted AFTER INSERT ON videos
  BEGIN INSERT INTO changes (id, deleted) VALUES (NEW.id, 0); END;

CREATE TRIGGER IF NOT EXISTS updated AFTER UPDATE ON videos
  BEGIN INSERT INTO changes (id, deleted) VALUES (NEW.id, 0); END;

CREATE TRIGGER IF NOT EXISTS deleted AFTER DELETE ON videos
  BEGIN INSERT INTO changes (id, deleted) VALUES (OLD.id, 1); END;

CREATE TRIGGER IF NOT EXISTS bounded AFTER INSERT ON changes WHEN NEW.number % 500 = 0
  BEGIN DELETE FROM changes WHERE number <= NEW.number - 5000; END;
