// The catalogue in two dimensions: what the recommender sees alike lies together.

import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";

import { client, floats, get, type ItemAnswer, key, type MapAnswer } from "./api";
import { Badges, ItemSearch, ItemText, Panel, Problem } from "./parts";
import { Points } from "./points";
import { append, attributesOf, titleOf, typed } from "./shared";
import { useAsked, useSignal } from "./signal";

// Twelve colours that are told apart on light and on dark ground, and by most of those who see fewer colours.
const COLOURS = [
  "#4e79a7", "#f28e2b", "#e15759", "#2a9d8f", "#59a14f", "#b8860b",
  "#b07aa1", "#ff6f91", "#9c755f", "#7f7f7f", "#17becf", "#8c6bb1",
].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const OTHERS = [140, 140, 150];
const FEW = [120, 160, 210];
const MANY = [214, 84, 44];
const POPULARITY = ":popularity";
const NEIGHBOURS = 5;

export function Map({ fields }: { fields: string[] }) {
  const [colour, setColour] = useState(POPULARITY);
  const withKey = useSignal(key);
  const query = colour === POPULARITY ? "" : `?attribute=${encodeURIComponent(colour)}`;
  const found = useAsked(
    async () => (await get(`/bundle/map${query}`)).json() as Promise<MapAnswer>,
    [colour, withKey],
  );
  return (
    <div class="columns map">
      <Plot map={found.answer} error={found.error} />
      <Legend fields={fields} colour={colour} onColour={setColour} map={found.answer} />
    </div>
  );
}

function Legend(props: {
  fields: string[];
  colour: string;
  onColour: (colour: string) => void;
  map: MapAnswer | undefined;
}) {
  const label = useId();
  return (
    <Panel title="Colours">
      <label for={label}>Colour by</label>
      <select id={label} value={props.colour} onChange={(event) => props.onColour(event.currentTarget.value)}>
        <option value={POPULARITY}>popularity</option>
        {props.fields.map((field) => (
          <option key={field}>{field}</option>
        ))}
      </select>
      <ul class="legend">
        {props.map?.categories?.values.map((value, i) => (
          <li key={value}>
            <svg viewBox="0 0 10 10" aria-hidden="true">
              <circle cx="5" cy="5" r="5" fill={`rgb(${COLOURS[i]!.join(" ")})`} />
            </svg>
            {value}
          </li>
        ))}
        {props.map && !props.map.categories && (
          <>
            <li>
              <svg viewBox="0 0 10 10" aria-hidden="true">
                <circle cx="5" cy="5" r="5" fill={`rgb(${MANY.join(" ")})`} />
              </svg>
              used often
            </li>
            <li>
              <svg viewBox="0 0 10 10" aria-hidden="true">
                <circle cx="5" cy="5" r="3" fill={`rgb(${FEW.join(" ")})`} />
              </svg>
              seldom or never
            </li>
          </>
        )}
      </ul>
      <p class="quiet">
        {props.map && `${props.map.ids.length.toLocaleString()} items. `}
        Large points: head items, the fifth used most.
      </p>
    </Panel>
  );
}

function Plot({ map, error }: { map: MapAnswer | undefined; error: unknown }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const points = useRef<Points | undefined>(undefined);
  const [failed, fail] = useState<unknown>();
  const [under, setUnder] = useState<{ id: string; place: [number, number] }>();
  const [dropped, drop] = useState<{ title: string; place: [number, number] }>();
  const [, draw] = useState({});
  const rows = useSignal(typed);
  const places = useMemo(() => map && floats(map.places), [map]); // not with every frame

  useEffect(() => {
    try {
      points.current = new Points(canvas.current!, () => draw({}));
    } catch (caught) {
      fail(caught);
    }
  }, []);
  useEffect(() => {
    if (map && places) points.current?.set(places, colours(map), sizes(map));
  }, [map]);

  const placeOf = (id: string): [number, number] | undefined => {
    const i = map?.ids.indexOf(id) ?? -1;
    return places && i >= 0 ? [places[2 * i]!, places[2 * i + 1]!] : undefined;
  };
  const show = (item: ItemAnswer) => {
    const place = placeOf(item.id);
    if (!place) return fail(new Error(`${titleOf(item.attributes, item.id)} is not on the map: it was put later`));
    fail(undefined);
    setUnder({ id: item.id, place });
    points.current?.show(place);
  };
  const dropTyped = async () => {
    const attributes = attributesOf(rows);
    try {
      const near = await client().similar({ attributes, k: 4 * NEIGHBOURS });
      const found = near.items.flatMap((item) => placeOf(item.id) ?? []).slice(0, 2 * NEIGHBOURS);
      const xs = found.filter((_, i) => i % 2 === 0);
      const ys = found.filter((_, i) => i % 2 === 1);
      const place: [number, number] = [mean(xs), mean(ys)];
      drop({ title: titleOf(attributes), place });
      points.current?.show(place);
      fail(undefined);
    } catch (caught) {
      fail(caught);
    }
  };
  return (
    <Panel title="Map" class="plot">
      <Problem error={error ?? failed} />
      <div class="canvas">
        <canvas
          ref={canvas}
          tabIndex={0}
          role="img"
          aria-label="Map of the catalogue. Arrow keys move it, plus and minus zoom, 0 shows all of it."
          {...pointerHandlers(points, (i) =>
            setUnder(i < 0 || !map || !places ? undefined : { id: map.ids[i]!, place: [places[2 * i]!, places[2 * i + 1]!] }),
          )}
          onKeyDown={(event) => byKey(event, points.current)}
        />
        {under && <Mark at={points.current?.pixelOf(under.place)} kind="under" />}
        {dropped && <Mark at={points.current?.pixelOf(dropped.place)} kind="dropped" title={dropped.title} />}
        {under && <Tooltip id={under.id} />}
      </div>
      <div class="buttons">
        <button onClick={() => zoomMiddle(points.current, 1.5)}>Zoom in</button>
        <button onClick={() => zoomMiddle(points.current, 1 / 1.5)}>Zoom out</button>
        <button onClick={() => points.current?.reset()}>Show all</button>
        <button disabled={!Object.keys(attributesOf(rows)).length} onClick={dropTyped}>
          Drop the typed item here
        </button>
      </div>
      <ItemSearch label="Find an item on the map" action="Show it" onChoose={show} limit={4} />
    </Panel>
  );
}

function Mark(props: { at: [number, number] | undefined; kind: string; title?: string }) {
  if (!props.at) return null;
  const [x, y] = props.at;
  return (
    <svg class={`mark ${props.kind}`} aria-hidden="true">
      <circle cx={x} cy={y} r="9" />
      {props.title && (
        <text x={x + 14} y={y + 5}>
          {props.title}
        </text>
      )}
    </svg>
  );
}

function Tooltip({ id }: { id: string }) {
  const withKey = useSignal(key);
  const found = useAsked(() => client().getItem({ itemId: id }), [id, withKey], 60);
  const item = found.answer?.id === id ? found.answer : undefined;
  return (
    <div class="tooltip" role="status">
      {item ? (
        <>
          <ItemText id={id} attributes={item.attributes} />
          <Badges item={item} />
          <span class="quiet">{item.popularity.toLocaleString()} interactions</span>
          <button onClick={() => append(item)}>Add to the sequence</button>
        </>
      ) : (
        id
      )}
    </div>
  );
}

type Ref = { current: Points | undefined };

/** Drag to move, turn the wheel to zoom, point to look. */
function pointerHandlers(points: Ref, look: (i: number) => void) {
  return {
    onPointerDown: (event: PointerEvent) => (event.currentTarget as Element).setPointerCapture(event.pointerId),
    onPointerMove: (event: PointerEvent) => {
      if (event.buttons) points.current?.pan(event.movementX, event.movementY);
      else look(points.current?.nearest(event.offsetX, event.offsetY, 8) ?? -1);
    },
    onWheel: (event: WheelEvent) => {
      event.preventDefault();
      points.current?.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
    },
  };
}

function byKey(event: KeyboardEvent, points: Points | undefined): void {
  const step = 40;
  const moves: Record<string, () => void> = {
    ArrowLeft: () => points?.pan(step, 0),
    ArrowRight: () => points?.pan(-step, 0),
    ArrowUp: () => points?.pan(0, step),
    ArrowDown: () => points?.pan(0, -step),
    "+": () => zoomMiddle(points, 1.5),
    "-": () => zoomMiddle(points, 1 / 1.5),
    "0": () => points?.reset(),
  };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  move();
}

function zoomMiddle(points: Points | undefined, factor: number): void {
  const { clientWidth = 0, clientHeight = 0 } = points?.canvas ?? {};
  points?.zoom(factor, clientWidth / 2, clientHeight / 2);
}

/** Whether each item is of the fifth used most, as the service counts it. */
function heads(map: MapAnswer): boolean[] {
  const used = [...map.popularity].sort((a, b) => b - a);
  const least = Math.max(1, used[Math.round(used.length / 5) - 1] ?? 1);
  return map.popularity.map((count) => count >= least);
}

function sizes(map: MapAnswer): Float32Array<ArrayBuffer> {
  // The more there are, the smaller: from ten pixels to two.
  const tail = Math.min(6, Math.max(2, 60 / Math.sqrt(Math.sqrt(map.ids.length)) - 1.5));
  return Float32Array.from(heads(map), (head) => (head ? 1.7 * tail : tail));
}

function colours(map: MapAnswer): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(4 * map.ids.length);
  const most = Math.log1p(map.popularity.reduce((a, b) => Math.max(a, b), 1));
  map.popularity.forEach((count, i) => {
    const place = map.categories?.of[i];
    const share = Math.log1p(count) / most;
    const mixed = FEW.map((few, channel) => few + share * (MANY[channel]! - few));
    const colour = place === undefined ? mixed : (COLOURS[place] ?? OTHERS);
    found.set([...colour, place === -1 ? 110 : 200], 4 * i);
  });
  return found;
}

function mean(values: number[]): number {
  return values.reduce((a, b) => a + b, 0) / (values.length || 1);
}
