// Curves over time or epochs.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export interface Curve {
  label: string;
  values: (number | null)[];
}

const COLOURS = ["--curve-1", "--curve-2", "--curve-3"];

/** Curves over the same `x`, in the page's colours. */
export function Chart(props: { title: string; x: number[]; curves: Curve[]; time?: boolean; digits?: number }) {
  const place = useRef<HTMLDivElement>(null);
  const data = [props.x, ...props.curves.map((curve) => curve.values)] as uPlot.AlignedData;
  const names = props.curves.map((curve) => curve.label).join();
  const plot = useRef<uPlot | undefined>(undefined);
  useEffect(() => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const size = () => ({ width: place.current?.clientWidth || 300, height: 180 });
    const made = new uPlot(
      {
        ...size(),
        scales: {
          x: { time: props.time ?? false },
          y: { range: (_: uPlot, low: number, high: number) => [Math.min(0, low ?? 0), (high || 1) * 1.05] },
        },
        axes: [axis, { ...axis, size: 60 }],
        series: [
          {},
          ...props.curves.map((curve, i) => ({
            label: curve.label,
            stroke: colour(COLOURS[i % COLOURS.length]!),
            width: 2,
            points: { show: props.x.length < 2 },
            value: (_: uPlot, value: number | null) => value?.toFixed(props.digits ?? 2) ?? "–",
          })),
        ],
      },
      data,
      place.current!,
    );
    plot.current = made;
    const resize = new ResizeObserver(() => made.setSize(size()));
    resize.observe(place.current!);
    return () => {
      resize.disconnect();
      made.destroy();
    };
  }, [names, props.time]);
  useEffect(() => plot.current?.setData(data), [props.x, props.curves]);
  return (
    <figure>
      <figcaption>{props.title}</figcaption>
      <div ref={place} />
    </figure>
  );
}
