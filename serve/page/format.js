/** Numbers in words. */

const STAGES = { text_encoder: "Text", unet: "U-Net", vae_decoder: "Decoder", load: "Loading" };
const DATE = new Intl.DateTimeFormat();

/** Return seconds as a person says them. */
export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return bytes in MB or GB. */
export function bytes(value) {
  return value < 1e9 ? `${Math.round(value / 1e6)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}

/** Return how long ago a Unix time was. */
export function ago(time) {
  const passed = Math.max(0, Date.now() / 1000 - time);
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ago`;
  return DATE.format(time * 1000);
}

/** Return a stage's name. */
export const stage = (name) => STAGES[name] ?? name.replaceAll("_", " ").replace(/^./, (l) => l.toUpperCase());

/** Return what a video that is not finished is doing. */
export function doing(video) {
  if (video.status === "queued") {
    return video.queue_position > 0 ? `Waiting, number ${video.queue_position + 1}` : "Next";
  }
  if (!video.stage) return "Starting";
  const parts = video.step !== null && video.steps ? ` ${video.step}/${video.steps}` : "";
  return `${stage(video.stage)}${parts}`;
}

/** Return a video's settings, as pairs of a name and a value. */
export function settings(video) {
  const facts = [
    ["Model", video.model],
    ["Size", video.size.replace("x", "×")],
    ["Frames", `${video.num_frames} at ${video.fps}/s`],
    ["Steps", String(video.num_inference_steps)],
    ["Guidance", video.guidance_scale === null ? "–" : String(video.guidance_scale)],
    ["Seed", String(video.seed)],
    ["Device", [...new Set(Object.values(video.backends))].join(", ") || video.device],
  ];
  return video.timings ? [...facts, ["Made in", seconds(total(video.timings))]] : facts;
}

/** Return a video's seconds in all. */
export function total(timings) {
  return timings.total ?? Object.values(timings).reduce((sum, value) => sum + value, 0);
}
