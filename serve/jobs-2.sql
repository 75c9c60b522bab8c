-- What hb-run's unfinished videos bring along; times in whole seconds; the rows as the API has them.
ALTER TABLE videos ADD COLUMN decoder TEXT NOT NULL DEFAULT 'full';

ALTER TABLE videos ADD COLUMN enhancement TEXT;

UPDATE videos SET
  created_at = CAST(created_at AS INTEGER), completed_at = CAST(completed_at AS INTEGER);

CREATE VIEW jobs AS SELECT
  videos.*,
  remixed_from AS remixed_from_video_id,
  printf('%g', 1.0 * num_frames / fps) AS seconds,
  printf('%dx%d', COALESCE(json_extract(enhancement, '$.width'), width),
    COALESCE(json_extract(enhancement, '$.height'), height)) AS size,
  CASE WHEN error_code IS NOT NULL
    THEN json_object('code', error_code, 'message', error_message) END AS error,
  CASE WHEN status = 'queued' THEN (
    SELECT COUNT(*) FROM videos AS other
    WHERE other.status = 'queued' AND other.rank < videos.rank
  ) END AS queue_position
FROM videos;
