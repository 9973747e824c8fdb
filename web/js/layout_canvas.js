/** Boxes with names over a picture, edited by mouse, touch or keyboard. Knows nothing of ComfyUI. */

export const COLORS = ["#d1590b", "#1f6feb", "#2da44e", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#cf222e"] // as in nodes/pictures.py
const SMALLEST = 0.02 // of the canvas, a box's width and height
const REACH = 0.02 // of the canvas, within which an edge snaps to another
const TALLEST = 1.2 // of its width, the canvas on the node
const PNG = /^data:image\/png;base64,[A-Za-z0-9+/]+=*$/ // and no address on the network
const BAR = 34 // pixels, the tools above the canvas
const EDGES = ["left", "top", "right", "bottom"]
const HANDLES = ["left top", "top", "right top", "right", "right bottom", "bottom", "left bottom", "left"]
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

const STYLE = `
.compinv-layout { display: flex; flex-direction: column; gap: 4px; width: 100%; contain: inline-size; box-sizing: border-box;
    font: 12px sans-serif;
    color: var(--input-text, #ddd); user-select: none; pointer-events: auto }
.compinv-layout .bar { display: flex; gap: 3px; height: ${BAR - 6}px; align-items: stretch }
.compinv-layout .bar > * { min-width: 0; border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; padding: 0 6px; font: inherit;
    background: var(--comfy-input-bg, #222); color: inherit }
.compinv-layout .bar button { cursor: pointer; flex: none; min-width: 28px }
.compinv-layout .bar button:disabled, .compinv-layout .bar input:disabled { opacity: 0.4; cursor: default }
.compinv-layout .bar button[aria-pressed="true"] { border-color: #6cf }
.compinv-layout .bar input { flex: 1 1 60px }
.compinv-layout .bar select { flex: 0 1 auto; max-width: 104px }
.compinv-layout .stage { position: relative; align-self: center; overflow: hidden; touch-action: none; cursor: crosshair; outline-offset: -1px;
    background: #202030 center / 100% 100% no-repeat; image-rendering: auto; border-radius: 3px }
.compinv-layout .hint { position: absolute; inset: 0; display: grid; place-content: center; text-align: center; padding: 12%;
    color: #aab; pointer-events: none }
.compinv-layout .mask { position: absolute; inset: 0; opacity: 0.5; pointer-events: none; mask-size: 100% 100%; mask-mode: luminance }
.compinv-layout .box { position: absolute; box-sizing: border-box; border: 2px solid var(--color); cursor: move; touch-action: none;
    background: color-mix(in srgb, var(--color) 18%, transparent); outline: none }
.compinv-layout .box.selected { background: color-mix(in srgb, var(--color) 34%, transparent); box-shadow: 0 0 0 1px #fff; z-index: 1 }
.compinv-layout .box .name { position: absolute; left: -2px; top: -2px; max-width: 100%; box-sizing: border-box; padding: 1px 5px; overflow: hidden;
    white-space: nowrap; text-overflow: ellipsis; background: var(--color); color: #fff; pointer-events: none }
.compinv-layout .handle { position: absolute; width: 10px; height: 10px; margin: -6px; border: 1px solid var(--color); background: #fff; display: none }
.compinv-layout .selected .handle { display: block }
@media (any-pointer: coarse) { .compinv-layout .handle { box-sizing: border-box; width: 26px; height: 26px; margin: -13px; border-radius: 6px } }
`

const clamp = (value, low, high) => Math.min(high, Math.max(low, value))
const round = value => Math.round(value * 10000) / 10000
const element = (tag, className, properties = {}) => Object.assign(document.createElement(tag), { className, ...properties })

/** Fingers on a stage move nothing else: two would zoom what is behind it. Only their moves are kept; starts and ends are counted there. */
const stay = event => [...event.touches].some(({ target }) => target.closest?.(".compinv-layout .stage")) && event.stopPropagation()

/** A layout's regions from its JSON, in either form; none of what cannot be read. */
export function regionsOf(text) {
    try {
        const read = JSON.parse(text)
        const listed = Array.isArray(read.regions) && read.regions.every(region => typeof region === "object")
        const regions = listed ? read.regions : Object.entries(read).map(([subject, box]) => ({ subject, box }))
        return regions.filter(({ subject, box }) => typeof subject === "string" && box?.length === 4 && box.every(Number.isFinite))
    } catch {
        return []
    }
}

/** A box, each edge at the nearest of the lines where one is near; moved as a whole when both edges of an axis are free. */
export function snapped(box, moving, lines) {
    const result = [...box]
    for (const axis of [0, 1]) {
        const free = [axis, axis + 2].filter(edge => moving.includes(EDGES[edge]))
        const steps = free.flatMap(edge => lines[axis].map(line => line - box[edge])).filter(step => Math.abs(step) <= REACH)
        const step = steps.length ? steps.reduce((a, b) => (Math.abs(b) < Math.abs(a) ? b : a)) : 0
        for (const edge of free) result[edge] = box[edge] + step
    }
    return result
}

/** A box whose edges in `moving` went by (x, y) from where they were at the start, within the canvas and no smaller than the smallest. */
export function moved(start, moving, x, y) {
    const box = [...start]
    for (const [axis, by] of [[0, x], [1, y]]) {
        const [low, high] = [axis, axis + 2]
        const [lowMoves, highMoves] = [low, high].map(edge => moving.includes(EDGES[edge]))
        if (lowMoves && highMoves) {
            const step = clamp(by, -start[low], 1 - start[high])
            box[low] = start[low] + step
            box[high] = start[high] + step
        } else if (lowMoves) box[low] = clamp(start[low] + by, 0, start[high] - SMALLEST)
        else if (highMoves) box[high] = clamp(start[high] + by, start[low] + SMALLEST, 1)
    }
    return box
}

export class LayoutCanvas {
    /**
     * @param texts what it says, of texts.js.
     * @param onChange called with the regions after each edit, and with null when all edits are taken back.
     * @param onBackdrop called with what the user wants behind the boxes: "preview", "result" or "none".
     * @param single whether there is one box, which always is there.
     */
    constructor({ texts, onChange, onBackdrop, single = false }) {
        Object.assign(this, { texts, onChange, single, regions: [], came: "[]", selected: -1, past: [], future: [], snap: true, aspect: 1, boxes: [] })
        this.element = element("div", "compinv-layout")
        if (!document.getElementById("compinv-layout-style")) {
            document.head.append(element("style", "", { id: "compinv-layout-style", textContent: STYLE }))
            window.addEventListener("touchmove", stay, { capture: true, passive: true })
        }
        const bar = element("div", "bar")
        const button = (text, title, act) => {
            const made = element("button", "", { type: "button", textContent: text, title, onclick: act })
            made.setAttribute("aria-label", title)
            bar.append(made)
            return made
        }
        const adding = button("+", texts.add, () => this.add())
        this.name = element("input", "", { type: "text", title: texts.subject })
        this.name.placeholder = texts["subject here"]
        this.name.onchange = () => this.rename(this.name.value)
        bar.append(this.name)
        this.removing = button("✕", texts.remove, () => this.remove())
        if (single) adding.hidden = this.removing.hidden = true
        this.undoing = button("↶", texts.undo, () => this.undo())
        this.redoing = button("↷", texts.redo, () => this.redo())
        this.snapping = button(texts.snap, texts["snap to"], () => this.toggleSnap())
        this.resetting = button("⟲", texts.reset, () => this.reset())
        this.backdrop = element("select", "", { title: texts.backdrop, onchange: () => onBackdrop(this.backdrop.value) })
        for (const value of ["preview", "result", "none"])
            this.backdrop.append(element("option", "", { value, textContent: texts[value] }))
        bar.append(this.backdrop)
        this.stage = element("div", "stage", { tabIndex: 0, title: texts.keys })
        this.stage.setAttribute("aria-label", `${texts.layout} ${texts.keys}`)
        this.hint = element("div", "hint", { textContent: texts.empty })
        this.masks = element("div", "masks")
        this.stage.append(this.hint, this.masks)
        this.element.append(bar, this.stage)
        this.stage.onpointerdown = event => this.grab(event)
        this.element.onkeydown = event => this.key(event)
        for (const kind of ["pointerdown", "pointermove", "pointerup", "dblclick", "contextmenu"])
            this.element.addEventListener(kind, event => event.button !== 1 && event.stopPropagation())
        this.setAspect(1)
        this.draw()
    }

    /** The height of all of it, in pixels, at a width. */
    heightAt(width) {
        return BAR + Math.min(width * TALLEST, width / this.aspect)
    }

    /** Width over height of the canvas. */
    setAspect(aspect) {
        this.aspect = aspect
        this.stage.style.aspectRatio = `${aspect}`
        this.stage.style.width = `${100 * Math.min(1, TALLEST * aspect)}%`
    }

    setPicture(url) {
        this.stage.style.backgroundImage = url ? `linear-gradient(#0004, #0004), url("${url}")` : ""
    }

    /** Show regions: the edits, where they count, of a layout as it came. What was shown before can be had again by undo. */
    show(regions, came) {
        this.came = JSON.stringify(came)
        if (JSON.stringify(regions) !== JSON.stringify(this.regions)) {
            if (this.regions.length) this.past.push(this.snapshot())
            this.regions = structuredClone(regions)
            this.future = []
            this.selected = Math.min(this.selected, regions.length - 1)
        }
        this.draw()
    }

    snapshot() {
        return structuredClone(this.regions)
    }

    /** An edit is done: from before, to what is there now. */
    commit(before) {
        if (JSON.stringify(before) === JSON.stringify(this.regions)) return this.draw()
        this.past.push(before)
        this.future = []
        this.changed()
    }

    changed() {
        this.selected = Math.min(this.selected, this.regions.length - 1)
        this.draw()
        this.onChange(JSON.stringify(this.regions) === this.came ? null : this.snapshot())
    }

    undo() {
        if (!this.past.length) return
        this.future.push(this.snapshot())
        this.regions = this.past.pop()
        this.changed()
    }

    redo() {
        if (!this.future.length) return
        this.past.push(this.snapshot())
        this.regions = this.future.pop()
        this.changed()
    }

    reset() {
        const before = this.snapshot()
        this.regions = JSON.parse(this.came)
        this.commit(before)
    }

    toggleSnap() {
        this.snap = !this.snap
        this.draw()
    }

    add(box) {
        const before = this.snapshot()
        if (this.single) {
            this.place(0, box)
            this.selected = 0
            return this.commit(before)
        }
        const taken = new Set(this.regions.map(region => region.subject))
        let number = this.regions.length + 1
        while (taken.has(`subject ${number}`)) number++
        const start = 0.1 + 0.06 * (this.regions.length % 8)
        this.regions.push({ subject: `subject ${number}`, box: box ?? [start, start, start + 0.35, start + 0.35].map(round), confidence: 1 })
        this.selected = this.regions.length - 1
        this.commit(before)
        this.name.focus()
        this.name.select()
    }

    remove() {
        if (this.selected < 0 || this.single) return
        const before = this.snapshot()
        this.regions.splice(this.selected, 1)
        this.selected = Math.min(this.selected, this.regions.length - 1)
        this.commit(before)
        ;(this.boxes[this.selected] ?? this.stage).focus()
    }

    rename(text) {
        const [before, subject] = [this.snapshot(), text.trim()]
        const taken = this.regions.some((region, i) => i !== this.selected && region.subject === subject)
        if (this.selected >= 0 && subject && !taken) this.regions[this.selected].subject = subject
        this.commit(before)
    }

    /** Give a region another box; a mask no longer fits it. */
    place(index, box) {
        const { subject } = this.regions[index]
        this.regions[index] = { subject, box: box.map(round), confidence: 1 }
    }

    select(index) {
        this.selected = index
        this.draw()
    }

    /** The lines that edges of a box snap to, across and down: the canvas's edges and middle, and other boxes' edges. */
    lines(index) {
        const others = this.regions.filter((_, i) => i !== index).map(region => region.box)
        return [0, 1].map(axis => [0, 0.5, 1, ...others.flatMap(box => [box[axis], box[axis + 2]])])
    }

    /** Drag a box, one of its handles, or from an empty spot a new box; pointer positions are in fractions of the stage as it is drawn. */
    grab(event) {
        if (event.button !== 0 || !event.isPrimary) return // a second finger does nothing
        const target = event.target.closest(".box")
        const index = target ? this.boxes.indexOf(target) : this.regions.length
        const [before, place] = [this.snapshot(), this.stage.getBoundingClientRect()]
        const at = ({ clientX, clientY }) => [(clientX - place.left) / place.width, (clientY - place.top) / place.height]
        const [x, y] = at(event)
        const moving = event.target.dataset.edges ?? (target ? EDGES.join(" ") : "right bottom")
        const start = target ? before[index].box : [x, y, x, y]
        this.select(target ? index : -1)
        ;(target ?? this.stage).focus({ preventScroll: true })
        this.stage.setPointerCapture(event.pointerId)
        const drag = move => {
            const [toX, toY] = at(move)
            if (!target) {
                const drawn = [Math.min(x, toX), Math.min(y, toY), Math.max(x, toX), Math.max(y, toY)].map(edge => clamp(edge, 0, 1))
                if (drawn[2] - drawn[0] < SMALLEST || drawn[3] - drawn[1] < SMALLEST) return
                const lines = this.lines(index)
                this.drawn = this.snap && !move.altKey ? snapped(snapped(drawn, "left top", lines), "right bottom", lines) : drawn
                this.regions = [...(this.single ? [] : before), { subject: "", box: this.drawn, confidence: 1 }]
            } else {
                const box = moved(start, moving, toX - x, toY - y)
                const fitted = this.snap && !move.altKey ? snapped(box, moving, this.lines(index)) : box
                this.place(index, moved(start, moving, this.shift(start, fitted, moving, 0), this.shift(start, fitted, moving, 1)))
            }
            this.draw()
        }
        const own = act => other => other.pointerId === event.pointerId && act(other)
        const end = done => {
            this.stage.onpointermove = this.stage.onpointerup = this.stage.onpointercancel = this.cancel = null
            const drawn = this.drawn
            this.drawn = undefined
            if (!done || drawn) this.regions = before
            if (done && drawn) this.add(drawn.map(round))
            else if (done) this.commit(before)
            else this.draw()
        }
        this.cancel = () => end(false)
        Object.assign(this.stage, { onpointermove: own(drag), onpointerup: own(() => end(true)), onpointercancel: own(this.cancel) })
    }

    /** How far the moving edges of an axis went. */
    shift(start, box, moving, axis) {
        const edge = [axis, axis + 2].find(edge => moving.includes(EDGES[edge]))
        return edge === undefined ? 0 : box[edge] - start[edge]
    }

    key(event) {
        event.stopPropagation()
        const typing = event.target === this.name
        const command = event.ctrlKey || event.metaKey
        const letter = event.key.toLowerCase()
        if (typing && event.key === "Enter") {
            this.name.blur() // which renames
            this.boxes[this.selected]?.focus()
        } else if (typing || event.target === this.backdrop) return
        else if (command && (letter === "y" || (letter === "z" && event.shiftKey))) this.redo()
        else if (command && letter === "z") this.undo()
        else if (event.key === "Escape" && this.cancel) this.cancel()
        else if (this.selected < 0 || event.target.tagName === "BUTTON") return
        else if (event.key === "Delete" || event.key === "Backspace") this.remove()
        else if (event.key === "Enter") this.name.select()
        else if (event.key in ARROWS) {
            const [before, step] = [this.snapshot(), event.shiftKey ? 0.1 : 0.01]
            const [x, y] = ARROWS[event.key].map(way => way * step)
            this.place(this.selected, moved(before[this.selected].box, command ? "right bottom" : EDGES.join(" "), x, y))
            this.commit(before)
        } else return
        event.preventDefault()
    }

    draw() {
        while (this.boxes.length > this.regions.length) this.boxes.pop().remove()
        while (this.boxes.length < this.regions.length) this.boxes.push(this.makeBox())
        this.masks.replaceChildren()
        this.regions.forEach(({ subject, box, mask }, i) => {
            const [drawn, color] = [this.boxes[i], COLORS[i % COLORS.length]]
            const [left, top, right, bottom] = box.map(edge => 100 * edge)
            const edges = [left, top, right, bottom].map((percent, edge) => `${this.texts[EDGES[edge]]} ${percent.toFixed()} %`)
            Object.assign(drawn.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` })
            drawn.style.setProperty("--color", color)
            drawn.classList.toggle("selected", i === this.selected)
            drawn.firstChild.textContent = subject.replace(/^embedding:/, "")
            drawn.setAttribute("aria-label", `${subject}: ${edges.join(", ")}`)
            if (!PNG.test(mask ?? "")) return
            const shape = element("div", "mask")
            Object.assign(shape.style, { backgroundColor: color, maskImage: `url("${mask}")` })
            this.masks.append(shape)
        })
        const chosen = this.regions[this.selected]
        this.name.disabled = this.removing.disabled = !chosen
        if (document.activeElement !== this.name || !chosen) this.name.value = chosen?.subject ?? ""
        this.undoing.disabled = !this.past.length
        this.redoing.disabled = !this.future.length
        this.resetting.disabled = this.came === "[]" || JSON.stringify(this.regions) === this.came
        this.snapping.setAttribute("aria-pressed", `${this.snap}`)
        this.hint.hidden = this.regions.length > 0
        this.hint.style.display = this.regions.length ? "none" : ""
    }

    makeBox() {
        const box = element("div", "box", { tabIndex: 0 })
        box.setAttribute("role", "button")
        box.type = "textarea" // by which ComfyUI's own undo leaves the keys to what has the focus,
        Object.defineProperty(box, "isContentEditable", { value: true }) // and by which newer front ends do
        box.append(element("div", "name"))
        for (const edges of HANDLES) {
            const handle = element("div", "handle")
            handle.dataset.edges = edges
            const [x, y] = [["left", "right"], ["top", "bottom"]].map(([low, high]) => (edges.includes(low) ? 0 : edges.includes(high) ? 100 : 50))
            Object.assign(handle.style, { left: `${x}%`, top: `${y}%`, cursor: cursorOf(x, y) })
            box.append(handle)
        }
        box.onfocus = () => this.boxes.indexOf(box) !== this.selected && this.select(this.boxes.indexOf(box))
        this.stage.append(box)
        return box
    }
}

const cursorOf = (x, y) => (x === 50 ? "ns-resize" : y === 50 ? "ew-resize" : x === y ? "nwse-resize" : "nesw-resize")
