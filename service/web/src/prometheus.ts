// The service's metrics, as Prometheus reads them.

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** Read the text format. */
export function parsed(text: string): Sample[] {
  const found: Sample[] = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels: Record<string, string> = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name!] = value!.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
    }
    found.push({ name: match[1]!, labels, value: Number(match[3]) });
  }
  return found;
}

/** The sum of what matches; 0 where nothing does. */
export function sum(samples: Sample[], name: string, labels: Record<string, string | RegExp> = {}): number {
  return samples
    .filter((one) => one.name === name && matches(one, labels))
    .reduce((total, one) => total + one.value, 0);
}

/** A quantile of what a histogram counted between two looks, in its unit; NaN where it counted nothing. */
export function quantile(
  before: Sample[],
  now: Sample[],
  name: string,
  labels: Record<string, string | RegExp>,
  q: number,
): number {
  const edges = [...new Set(now.filter((one) => one.name === `${name}_bucket` && matches(one, labels)).map((one) => one.labels.le!))];
  edges.sort((a, b) => bound(a) - bound(b));
  const counts = edges.map((le) => {
    const at = { ...labels, le };
    return sum(now, `${name}_bucket`, at) - sum(before, `${name}_bucket`, at);
  });
  const total = counts.at(-1) ?? 0;
  if (!total) return NaN;
  const place = counts.findIndex((count) => count >= q * total);
  const from = place ? bound(edges[place - 1]!) : 0;
  const below = place ? counts[place - 1]! : 0;
  const to = bound(edges[place]!);
  if (!Number.isFinite(to)) return from;
  return from + ((to - from) * (q * total - below)) / (counts[place]! - below || 1);
}

function bound(le: string): number {
  return le === "+Inf" ? Infinity : Number(le);
}

function matches(one: Sample, labels: Record<string, string | RegExp>): boolean {
  return Object.entries(labels).every(([name, wanted]) => {
    const value = one.labels[name] ?? "";
    return typeof wanted === "string" ? value === wanted : wanted.test(value);
  });
}
