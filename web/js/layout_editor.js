/** The editor on the node Layout Editor. The edits live in its text widget "edits", so that the workflow holds them and the server reads them. */

import { app } from "../../../scripts/app.js"
import { LayoutCanvas, regionsOf } from "./layout_canvas.js"
import { textsIn } from "./texts.js"

const MARGIN = 20 // pixels, of a widget's width on a node
const WIDTH = 420 // pixels, at least, of a node with an editor

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

function edit(node) {
    const edits = node.widgets.find(widget => widget.name === "edits")
    const sizes = ["width", "height"].map(name => node.widgets.find(widget => widget.name === name))
    const pictures = {}
    let upstream // what edits of the layout as it came are known by; undefined until it has run on this page
    let came = []

    const canvas = new LayoutCanvas({
        texts: textsIn(app.extensionManager.setting.get("Comfy.Locale")),
        onChange(regions) {
            const whole = { regions, source: "my boxes", note: "", upstream: upstream ?? "" }
            edits.value = regions === null ? "" : JSON.stringify(whole)
            edits.callback?.(edits.value)
            node.setDirtyCanvas(true, true)
        },
        onBackdrop: () => showPicture()
    })

    function showPicture() {
        const url = pictures[canvas.backdrop.value]
        canvas.setPicture(url)
        if (!url) return setAspect(...sizes.map(widget => widget.value))
        const picture = new Image()
        picture.onload = () => setAspect(picture.naturalWidth, picture.naturalHeight)
        picture.src = url
    }

    function setAspect(width, height) {
        canvas.setAspect(width / height)
        node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
        node.setDirtyCanvas(true, true)
    }

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
        const [picture] = output.layout_background ?? []
        pictures.preview = picture && urlOf(picture)
        showPicture()
        show()
    }

    edits.hidden = edits.options.hidden = true
    edits.computeSize = () => [0, -4] // else the classic canvas leaves its room free
    const height = () => canvas.heightAt(node.size[0] - MARGIN) + MARGIN
    const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height }
    node.addDOMWidget("layout canvas", "compinv_layout", canvas.element, options).serialize = false
    node.setSize([Math.max(node.size[0], WIDTH), node.size[1]])
    node.setSize([node.size[0], node.computeSize()[1]]) // which depends on the width
    for (const widget of sizes) after(widget, "callback", showPicture)
    after(node, "onExecuted", onOutput)
    after(node, "onConfigure", () => {
        show()
        showPicture()
        onOutput(app.nodeOutputs?.[node.id])
    })

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
}

app.registerExtension({
    name: "CompositionalInversion.LayoutEditor",
    nodeCreated(node) {
        if (node.constructor.comfyClass === "CompInvLayoutEditor") edit(node)
    }
})
