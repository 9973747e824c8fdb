/** Layouts edited on their nodes. What is edited lives in the nodes' own widgets, so that the workflow holds it and the server reads it. */

import { app } from "../../../scripts/app.js"
import { LayoutCanvas, regionsOf } from "./layout_canvas.js"
import { textsIn } from "./texts.js"

const MINE = "my boxes" // as in nodes/layout.py
const MARGIN = 20 // pixels, of a widget's width on a node
const WIDTH = 420 // pixels, at least, of a node with an editor
let canvases = 0 // made on this page

const urlOf = ({ filename, subfolder, type }) =>
    app.api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)

/** A function that runs another after the one that an object has. */
function after(object, name, act) {
    const own = object[name]
    object[name] = function (...args) {
        const result = own?.apply(this, args)
        act(...args)
        return result
    }
}

/** Whether a node gets something that this node gave, along any number of wires. */
function comesFrom(node, source, seen = new Set()) {
    if (!node || seen.has(node.id)) return false
    seen.add(node.id)
    return node === source || (node.inputs ?? []).some((_, i) => comesFrom(node.getInputNode(i), source, seen))
}

/** Whether a node shows pictures that were decoded from a latent, not drawings of maps or boxes. */
const showsDecoded = node =>
    (node.inputs ?? []).some((input, i) => input.type === "IMAGE" && node.getInputNode(i)?.inputs?.some(from => from.type === "LATENT"))

/** A layout canvas on a node, with the pictures behind it: the preview that the node gives, and the last result that comes from it.
 *
 * @param onChange, single as `LayoutCanvas` takes them.
 * @param aspect width over height where there is no picture.
 * @param opened whether the canvas is there from the start; else a button shows and hides it.
 */
function canvasOn(node, { onChange, aspect, single = false, opened = true }) {
    const pictures = {}
    const texts = textsIn(app.extensionManager.setting.get("Comfy.Locale"))
    const canvas = new LayoutCanvas({ texts, onChange, single, onBackdrop: () => showPicture() })

    function showPicture() {
        const url = pictures[canvas.backdrop.value]
        canvas.setPicture(url)
        if (!url) return setAspect(aspect())
        const picture = new Image()
        picture.onload = () => setAspect(picture.naturalWidth / picture.naturalHeight)
        picture.src = url
    }

    function setAspect(value) {
        canvas.setAspect(value)
        if (opened) node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
        node.setDirtyCanvas(true, true)
    }

    function open(shown) {
        opened = shown
        canvas.element.style.display = shown ? "" : "none"
        if (shown) node.setSize([Math.max(node.size[0], WIDTH), node.size[1]])
        node.setSize([node.size[0], node.computeSize()[1]]) // which depends on the width
        node.setDirtyCanvas(true, true)
    }

    const unsaved = { serialize: false } // and not a part of what is queued
    if (!opened) node.addWidget("button", texts.draw, null, () => open(!opened), unsaved).serialize = false
    const height = () => (opened ? canvas.heightAt(node.size[0] - MARGIN) + MARGIN : 0)
    const options = { ...unsaved, hideOnZoom: false, getMinHeight: height, getMaxHeight: height }
    const name = `layout canvas ${++canvases}` // or Nodes 2.0 of 1.32.9 shows that of another graph's node of the same number
    node.addDOMWidget(name, "compinv_layout", canvas.element, options).serialize = false
    open(opened)

    const onExecuted = ({ detail }) => {
        const shown = app.graph.getNodeById(detail.node)
        const [picture] = detail.output?.images ?? []
        if (!picture || !shown || shown === node || !showsDecoded(shown) || !comesFrom(shown, node)) return
        pictures.result = urlOf(picture)
        if (canvas.backdrop.value === "result") showPicture()
    }
    app.api.addEventListener("executed", onExecuted)
    after(node, "onRemoved", () => app.api.removeEventListener("executed", onExecuted))

    // Zooming and panning go through to the classic canvas; Nodes 2.0 lets them through by itself.
    const classic = act => event => window.LiteGraph.vueNodesMode || act(event)
    canvas.element.addEventListener("wheel", classic(event => app.canvas.processMouseWheel(event)))
    canvas.element.addEventListener("pointerdown", classic(event => event.button === 1 && app.canvas.processMouseDown(event)))
    return {
        canvas,
        showPicture,
        setPreview(output) {
            const [picture] = output.layout_background ?? []
            pictures.preview = picture && urlOf(picture)
            showPicture()
        }
    }
}

const widgetOf = (node, name) => node.widgets.find(widget => widget.name === name)

function set(widget, value) {
    widget.value = value
    widget.callback?.(value)
}

/** A text that the canvas shows instead. */
function hide(widget) {
    widget.hidden = widget.options.hidden = true
    widget.computeSize = () => [0, -4] // else the classic canvas leaves its room free
}

/** Layout Editor: the edits are in "edits", with what they were made of. */
function edit(node) {
    const edits = widgetOf(node, "edits")
    const sizes = ["width", "height"].map(name => widgetOf(node, name))
    let upstream // what edits of the layout as it came are known by; undefined until it has run on this page
    let came = []

    hide(edits)
    const { canvas, showPicture, setPreview } = canvasOn(node, {
        aspect: () => sizes[0].value / sizes[1].value,
        onChange(regions) {
            const whole = { regions, source: MINE, note: "", upstream: upstream ?? "" }
            set(edits, regions === null ? "" : JSON.stringify(whole))
            node.setDirtyCanvas(true, true)
        }
    })

    /** The edits, where they count, as nodes/layout_editor.py decides it; else the layout as it came. */
    function show() {
        let madeOf
        try {
            madeOf = JSON.parse(edits.value).upstream
        } catch {
            // no edits, or some written by hand that cannot be read
        }
        const outdated = upstream && typeof madeOf === "string" && madeOf !== upstream
        const regions = regionsOf(edits.value)
        canvas.show(regions.length && !outdated ? regions : came, came)
    }

    function onOutput(output) {
        if (!output?.layout_json) return
        upstream = output.layout_upstream[0]
        came = upstream ? regionsOf(output.layout_json[0]) : []
        setPreview(output)
        show()
    }

    for (const widget of sizes) after(widget, "callback", showPicture)
    after(node, "onExecuted", onOutput)
    after(node, "onConfigure", () => {
        show()
        showPicture()
        onOutput(app.nodeOutputs?.[node.id])
    })
}

/** Spatial Layout Recover: an edit of what was recovered is "my boxes", which recovers nothing again; all edits taken back are its method. */
function draw(node) {
    const [boxes, method] = ["boxes", "method"].map(name => widgetOf(node, name))
    let came = []
    let recovered // by which method

    hide(boxes)
    const { canvas, setPreview } = canvasOn(node, {
        opened: false,
        aspect: () => 1,
        onChange(regions) {
            if (regions !== null) set(boxes, JSON.stringify({ regions, source: MINE, note: "" }))
            set(method, regions === null ? recovered : MINE)
            node.setDirtyCanvas(true, true)
        }
    })

    const show = () => canvas.show(method.value === MINE ? regionsOf(boxes.value) : came, came)

    function onOutput(output) {
        if (!output?.layout_json) return
        came = regionsOf(output.layout_json[0])
        recovered = output.layout_method[0]
        setPreview(output)
        show()
    }

    after(method, "callback", show)
    after(node, "onExecuted", onOutput)
    after(node, "onConfigure", () => {
        show()
        onOutput(app.nodeOutputs?.[node.id])
    })
}

/** Set Region: one box, which is its edges. */
function drawOne(node) {
    const [subject, ...edges] = ["subject", "left", "top", "right", "bottom"].map(name => widgetOf(node, name))
    let drawing = false
    const { canvas } = canvasOn(node, {
        single: true,
        opened: false,
        aspect: () => widgetOf(node, "width").value / widgetOf(node, "height").value,
        onChange(regions) {
            const [region] = regions ?? canvas.regions
            drawing = true
            set(subject, region.subject)
            edges.forEach((widget, i) => set(widget, region.box[i]))
            drawing = false
            node.setDirtyCanvas(true, true)
        }
    })

    function show() {
        if (drawing) return
        const box = edges.map(widget => widget.value)
        const drawable = box[0] < box[2] && box[1] < box[3]
        if (drawable) canvas.show([{ subject: subject.value, box, confidence: 1 }], [])
    }

    for (const widget of [subject, ...edges]) after(widget, "callback", show)
    after(node, "onConfigure", show)
    show()
}

const EDITORS = { CompInvLayoutEditor: edit, CompInvLayoutRecover: draw, CompInvSetRegion: drawOne }

app.registerExtension({
    name: "CompositionalInversion.LayoutEditor",
    nodeCreated(node) {
        EDITORS[node.constructor.comfyClass]?.(node)
    }
})
