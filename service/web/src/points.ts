// Many points on a canvas, by WebGL: pan, zoom, and which point is under the pointer.

const VERTEX = `#version 300 es
uniform vec2 middle;
uniform vec2 scale;
uniform float pixels;
in vec2 place;
in vec4 colour;
in float size;
out vec4 shade;
void main() {
  gl_Position = vec4((place - middle) * scale, 0.0, 1.0);
  gl_PointSize = size * pixels;
  shade = colour;
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 shade;
out vec4 pixel;
void main() {
  float away = length(gl_PointCoord - 0.5) * 2.0;
  float cover = 1.0 - smoothstep(0.75, 1.0, away);
  if (cover <= 0.0) discard;
  pixel = vec4(shade.rgb, 1.0) * (shade.a * cover);
}`;

const LARGEST_ZOOM = 400;

// While the map moves, no more points are drawn than the machine can draw as fast as this, in milliseconds
// a frame; chosen at random, but always the same ones first. When it rests, all are.
const SLOW = 28;
const FAST = 20;
const REST = 150;
const FEWEST = 10_000;

export class Points {
  #gl: WebGL2RenderingContext;
  #program: WebGLProgram;
  #places: Float32Array<ArrayBuffer> = new Float32Array();
  #count = 0;
  #middle: [number, number] = [0, 0];
  #zoom = 1;
  #asked = false;
  #affordable = Infinity;
  #painted = -Infinity;
  #resting: ReturnType<typeof setTimeout> | undefined;

  /** `moved` is told whenever what is seen changes. */
  constructor(
    readonly canvas: HTMLCanvasElement,
    readonly moved: () => void,
  ) {
    const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    if (!gl) throw new Error("this browser has no WebGL 2, which the map is drawn with");
    this.#gl = gl;
    this.#program = linked(gl);
    gl.useProgram(this.#program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Take the points: two numbers of place, four bytes of colour and a diameter in pixels each. */
  set(
    places: Float32Array<ArrayBuffer>,
    colours: Uint8Array<ArrayBuffer>,
    sizes: Float32Array<ArrayBuffer>,
  ): void {
    this.#places = places;
    this.#count = sizes.length;
    this.#attribute("place", places, 2, this.#gl.FLOAT);
    this.#attribute("colour", colours, 4, this.#gl.UNSIGNED_BYTE);
    this.#attribute("size", sizes, 1, this.#gl.FLOAT);
    this.#gl.bindBuffer(this.#gl.ELEMENT_ARRAY_BUFFER, this.#gl.createBuffer());
    this.#gl.bufferData(this.#gl.ELEMENT_ARRAY_BUFFER, shuffled(this.#count), this.#gl.STATIC_DRAW);
    this.draw();
  }

  /** Draw in the next frame. */
  draw(): void {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame((now) => {
      this.#asked = false;
      this.#paint(this.#drawn(now));
    });
  }

  /** Move by so many pixels. */
  pan(right: number, down: number): void {
    const { x, y } = this.#scale();
    const { clientWidth, clientHeight } = this.canvas;
    this.#middle[0] -= (2 * right) / (clientWidth * x);
    this.#middle[1] += (2 * down) / (clientHeight * y);
    this.draw();
  }

  /** Zoom by a factor, around a place of the canvas in pixels. */
  zoom(factor: number, left: number, top: number): void {
    const before = this.placeAt(left, top);
    this.#zoom = Math.min(LARGEST_ZOOM, Math.max(0.5, this.#zoom * factor));
    const after = this.placeAt(left, top);
    this.#middle[0] += before[0] - after[0];
    this.#middle[1] += before[1] - after[1];
    this.draw();
  }

  /** Show everything again. */
  reset(): void {
    this.#middle = [0, 0];
    this.#zoom = 1;
    this.draw();
  }

  /** Show a place in the middle, closer. */
  show(place: [number, number]): void {
    this.#middle = [...place];
    this.#zoom = Math.max(this.#zoom, 6);
    this.draw();
  }

  /** The place on the map at so many pixels from the canvas's corner. */
  placeAt(left: number, top: number): [number, number] {
    const { x, y } = this.#scale();
    const { clientWidth, clientHeight } = this.canvas;
    return [
      this.#middle[0] + ((2 * left) / clientWidth - 1) / x,
      this.#middle[1] - ((2 * top) / clientHeight - 1) / y,
    ];
  }

  /** Pixels from the canvas's corner of a place on the map. */
  pixelOf(place: [number, number]): [number, number] {
    const { x, y } = this.#scale();
    const { clientWidth, clientHeight } = this.canvas;
    return [
      (((place[0] - this.#middle[0]) * x + 1) * clientWidth) / 2,
      ((1 - (place[1] - this.#middle[1]) * y) * clientHeight) / 2,
    ];
  }

  /** The point nearest to a place of the canvas, within so many pixels; -1: none. */
  nearest(left: number, top: number, within: number): number {
    const [x, y] = this.placeAt(left, top);
    const [edge] = this.placeAt(left + within, top);
    let best = (edge - x) ** 2;
    let found = -1;
    for (let i = 0; i < this.#count; i++) {
      const across = this.#places[2 * i]! - x;
      const up = this.#places[2 * i + 1]! - y;
      const distance = across * across + up * up;
      if (distance < best) {
        best = distance;
        found = i;
      }
    }
    return found;
  }

  #scale(): { x: number; y: number } {
    const { clientWidth, clientHeight } = this.canvas;
    const shorter = Math.min(clientWidth, clientHeight) || 1;
    const fit = 0.95 * this.#zoom * shorter;
    return { x: fit / (clientWidth || 1), y: fit / (clientHeight || 1) };
  }

  /** How many points a frame draws. */
  #drawn(now: number): number {
    const took = now - this.#painted;
    this.#painted = now;
    if (took > REST) return this.#count;
    const affordable = Math.min(this.#affordable, this.#count) * (took > SLOW ? 0.7 : took < FAST ? 1.1 : 1);
    this.#affordable = Math.max(FEWEST, affordable);
    if (this.#affordable >= this.#count) return this.#count;
    clearTimeout(this.#resting);
    this.#resting = setTimeout(() => this.draw(), REST + 1);
    return this.#affordable;
  }

  #paint(points: number): void {
    const gl = this.#gl;
    const ratio = devicePixelRatio;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const { x, y } = this.#scale();
    gl.uniform2f(this.#at("middle"), ...this.#middle);
    gl.uniform2f(this.#at("scale"), x, y);
    gl.uniform1f(this.#at("pixels"), ratio * Math.min(3, Math.sqrt(this.#zoom)));
    gl.drawElements(gl.POINTS, points, gl.UNSIGNED_INT, 0);
    this.moved();
  }

  #at(name: string): WebGLUniformLocation | null {
    return this.#gl.getUniformLocation(this.#program, name);
  }

  #attribute(name: string, data: ArrayBufferView<ArrayBuffer>, size: number, type: number): void {
    const gl = this.#gl;
    const place = gl.getAttribLocation(this.#program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, type === gl.UNSIGNED_BYTE, 0, 0);
  }
}

/** The numbers below `count` in an order by chance. */
function shuffled(count: number): Uint32Array<ArrayBuffer> {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

function linked(gl: WebGL2RenderingContext): WebGLProgram {
  const program = gl.createProgram();
  for (const [type, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ] as const) {
    const shader = gl.createShader(type);
    if (!shader) throw new Error("WebGL is lost");
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    throw new Error(gl.getProgramInfoLog(program) ?? "the map's program does not link");
  }
  return program;
}
