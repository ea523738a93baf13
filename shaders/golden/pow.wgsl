// Printed from `pow` in ops/src/defs.rs by UPDATE_GOLDEN=1 cargo test -p starling-ops --test wgsl

fn sl_zero() -> u32 {
    return 0u;
}

// A word that the compiler does not take for a constant.
fn sl_word(word: u32) -> u32 {
    var hidden = word;
    return hidden;
}

// By the bits: a compiler may take x != x to be false.
fn sl_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}

// a * b + c, rounded once.
fn sl_fma(a: f32, b: f32, c: f32) -> f32 {
    return sl_hold(fma(a, b, c));
}

fn sl_log(x0: f32) -> f32 {
    let v2 = x0 == 0.0f;
    let v4 = bitcast<f32>(sl_word(0x7f800000u));
    let v5 = -v4;
    let v6 = x0 < 0.0f;
    let v8 = bitcast<f32>(sl_word(0x7fc00000u));
    let v9 = x0 < v4;
    let v11 = x0 < 1.1754944e-38f;
    let v13 = x0 * 8388608.0f;
    let v14 = select(x0, v13, v11);
    let v15 = bitcast<u32>(v14);
    let v17 = v15 + 0x4afb0du;
    let v18 = v17 >> 23u;
    let v20 = v18 | 0x4b000000u;
    let v21 = bitcast<f32>(v20);
    let v23 = v21 - 8388735.0f;
    let v25 = select(0.0f, 23.0f, v11);
    let v26 = v23 - v25;
    let v29 = v17 & 0x7fffffu;
    let v31 = v29 + 0x3f3504f3u;
    let v32 = bitcast<f32>(v31);
    let v34 = v32 - 1.0f;
    let v36 = v34 * v34;
    let v39 = fma(v34, -0.07638335f, 0.12764828f);
    let v41 = fma(v34, v39, -0.13160181f);
    let v43 = fma(v34, v41, 0.14201269f);
    let v45 = fma(v34, v43, -0.16623315f);
    let v47 = fma(v34, v45, 0.2000125f);
    let v49 = fma(v34, v47, -0.25000823f);
    let v51 = fma(v34, v49, 0.3333333f);
    let v53 = fma(v34, v51, -0.5f);
    let v54 = v36 * v53;
    let v55 = fma(v26, -0.00021219444f, v54);
    let v56 = v34 + v55;
    let v57 = fma(v26, 0.6933594f, v56);
    let v58 = select(x0, v57, v9);
    let v59 = select(v58, v8, v6);
    let v60 = select(v59, v5, v2);
    return v60;
}

fn sl_pow(x0: f32, x1: f32) -> f32 {
    let v2 = x1 == 0.0f;
    let v5 = x0 == 1.0f;
    let v6 = v2 | v5;
    let v7 = abs(x0);
    let v9 = bitcast<f32>(sl_word(0x7f800000u));
    let v10 = v7 < v9;
    let v11 = x0 < 0.0f;
    let v12 = v10 & v11;
    let v13 = floor(x1);
    let v14 = x1 == v13;
    let v15 = !v14;
    let v16 = v12 & v15;
    let v17 = !sl_is_nan(x0);
    let v18 = !v17;
    let v19 = v16 | v18;
    let v21 = bitcast<f32>(sl_word(0x7fc00000u));
    let v22 = bitcast<u32>(x0);
    let v24 = x1 * 0.5f;
    let v25 = floor(v24);
    let v26 = v24 == v25;
    let v27 = !v26;
    let v28 = v14 & v27;
    let v31 = select(0x0u, 0x80000000u, v28);
    let v32 = v22 & v31;
    let v35 = 1e30f < x1;
    let v36 = select(x1, 1e30f, v35);
    let v38 = v36 < -1e30f;
    let v39 = select(v36, -1e30f, v38);
    let v40 = 0.0f == v7;
    let v41 = -v9;
    let v42 = v7 == v9;
    let v44 = v7 < 1.1754944e-38f;
    let v46 = v7 * 8388608.0f;
    let v47 = select(v7, v46, v44);
    let v48 = bitcast<u32>(v47);
    let v50 = v48 + 0x4afb0du;
    let v51 = v50 >> 23u;
    let v53 = v51 | 0x4b000000u;
    let v54 = bitcast<f32>(v53);
    let v56 = v54 - 8388735.0f;
    let v58 = select(0.0f, 23.0f, v44);
    let v59 = v56 - v58;
    let v61 = v50 & 0x7fffffu;
    let v63 = v61 + 0x3f3504f3u;
    let v64 = bitcast<f32>(v63);
    let v65 = v64 - 1.0f;
    let v67 = v65 + 2.0f;
    let v68 = sl_hold(v67);
    let v69 = 1.0f / v68;
    let v70 = v65 * v69;
    let v72 = v70 * 2.88539f;
    let v73 = v70 * v70;
    let v76 = fma(v73, 0.11713582f, 0.1427339f);
    let v78 = fma(v73, v76, 0.20000078f);
    let v79 = v73 * v78;
    let v81 = v79 + 0.33333334f;
    let v82 = sl_hold(v81);
    let v83 = v73 * v82;
    let v84 = v83 * v72;
    let v85 = v72 + v84;
    let v86 = sl_hold(v85);
    let v87 = v59 + v86;
    let v88 = sl_hold(v87);
    let v89 = v86 - v72;
    let v90 = sl_hold(v89);
    let v91 = v84 - v90;
    let v93 = v68 - 2.0f;
    let v94 = sl_hold(v93);
    let v95 = v65 - v94;
    let v96 = -v70;
    let v97 = sl_fma(v68, v96, v65);
    let v98 = sl_fma(v95, v96, v97);
    let v99 = v69 * v98;
    let v100 = -v72;
    let v101 = sl_fma(v70, 2.88539f, v100);
    let v102 = fma(v99, 2.88539f, v101);
    let v103 = fma(v70, 3.8519257e-8f, v102);
    let v104 = v82 - 0.33333334f;
    let v105 = sl_hold(v104);
    let v106 = v79 - v105;
    let v108 = v106 + -9.934108e-9f;
    let v109 = -v73;
    let v110 = sl_fma(v70, v70, v109);
    let v111 = fma(v70, v99, v110);
    let v112 = fma(v70, v99, v111);
    let v113 = -v83;
    let v114 = sl_fma(v73, v82, v113);
    let v115 = fma(v112, v82, v114);
    let v116 = fma(v73, v108, v115);
    let v117 = -v84;
    let v118 = sl_fma(v83, v72, v117);
    let v119 = fma(v83, v103, v118);
    let v120 = fma(v116, v72, v119);
    let v121 = v103 + v120;
    let v122 = v91 + v121;
    let v123 = v88 - v59;
    let v124 = sl_hold(v123);
    let v125 = v86 - v124;
    let v126 = v122 + v125;
    let v127 = v88 + v126;
    let v128 = sl_hold(v127);
    let v129 = select(v128, v9, v42);
    let v130 = select(v129, v41, v40);
    let v131 = v39 * v130;
    let v132 = 200.0f < v131;
    let v133 = select(v131, 200.0f, v132);
    let v135 = v133 < -200.0f;
    let v136 = select(v133, -200.0f, v135);
    let v137 = round(v136);
    let v139 = v137 + 8388862.0f;
    let v140 = bitcast<u32>(v139);
    let v141 = v140 - 0x4b000000u;
    let v142 = v141 >> 1u;
    let v143 = v141 - v142;
    let v144 = v143 << 23u;
    let v145 = bitcast<f32>(v144);
    let v146 = v136 - v137;
    let v147 = abs(v136);
    let v148 = v147 < 200.0f;
    let v149 = v128 - v88;
    let v150 = sl_hold(v149);
    let v151 = v126 - v150;
    let v152 = -v131;
    let v153 = sl_fma(v39, v130, v152);
    let v154 = sl_fma(v39, v151, v153);
    let v155 = select(0.0f, v154, v148);
    let v156 = v146 + v155;
    let v159 = fma(v156, 0.000153275f, 0.0013391242f);
    let v161 = fma(v156, v159, 0.009618505f);
    let v163 = fma(v156, v161, 0.055503592f);
    let v165 = fma(v156, v163, 0.24022648f);
    let v167 = fma(v156, v165, 0.6931472f);
    let v168 = fma(v156, v167, 1.0f);
    let v169 = v142 << 23u;
    let v170 = bitcast<f32>(v169);
    let v171 = v168 * v170;
    let v172 = v145 * v171;
    let v173 = bitcast<u32>(v172);
    let v174 = v32 | v173;
    let v175 = bitcast<f32>(v174);
    let v176 = select(v175, v21, v19);
    let v177 = select(v176, 1.0f, v6);
    return v177;
}

fn def_pow(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = sl_pow(x0, x1);
    return v2;
}

fn def_pow_by_a(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x1 == 0.0f;
    let v5 = x1 - 1.0f;
    let v6 = sl_pow(x0, v5);
    let v7 = x1 * v6;
    let v8 = select(v7, 0.0f, v2);
    return v8;
}

fn def_pow_by_b(x0: f32, x1: f32, index: u32) -> f32 {
    let v2 = x0 == 0.0f;
    let v4 = 0.0f <= x1;
    let v5 = v2 & v4;
    let v6 = sl_pow(x0, x1);
    let v7 = sl_log(x0);
    let v8 = v6 * v7;
    let v9 = select(v8, 0.0f, v5);
    return v9;
}
