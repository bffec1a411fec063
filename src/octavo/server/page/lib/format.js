// Numbers as people read them.

const SPACE = "\u00a0"; // keeps a number and its unit on one line
const PLAIN = new Intl.NumberFormat("en");

export const count = (value) => PLAIN.format(Math.round(value));

/** A rate: one digit after the point below 100, none above. */
export const short = (value) => (value >= 100 ? count(value) : value.toFixed(1));

export function seconds(value) {
  if (value == null) return "–";
  if (value < 1) return `${value < 0.01 ? (value * 1000).toFixed(1) : Math.round(value * 1000)}${SPACE}ms`;
  return `${value < 100 ? value.toFixed(value < 10 ? 2 : 1) : count(value)}${SPACE}s`;
}

export function bytes(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)}${SPACE}GB`;
  return value >= 1e6 ? `${Math.round(value / 1e6)}${SPACE}MB` : `${Math.round(value / 1e3)}${SPACE}kB`;
}

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}${SPACE}%`;

export const plural = (number, noun) => `${count(number)}${SPACE}${noun}${number === 1 ? "" : "s"}`;

/** The value below which a share of the values lies (nearest rank); null of nothing. */
export function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
